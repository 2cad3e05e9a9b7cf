"""Items of several lengths: which of them share a forward, what that costs, what is padded and cut off again."""
