"""`smartbatch capacity`: the highest rate that keeps an objective."""
