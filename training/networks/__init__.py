"""Networks in torch, with the parameter names of the public weights that they load."""
