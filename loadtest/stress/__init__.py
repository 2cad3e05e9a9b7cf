"""`smartbatch stress`: users rise step by step."""
