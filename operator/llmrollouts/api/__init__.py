"""L0: the types of the API, conditions, labels; the CRD is generated from them."""
