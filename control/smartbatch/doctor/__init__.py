"""`smartbatch doctor`: what is wrong with a running server, what it costs, what to type, and what that will gain.

`evidence` is gathered once (`probe` sends the load where nobody else does), each of `illnesses` looks at it, `gain`
asks the model of the server, `report` tells.
"""
