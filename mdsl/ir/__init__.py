"""Types, attributes, values and operations; how an operation is declared, found and verified."""
