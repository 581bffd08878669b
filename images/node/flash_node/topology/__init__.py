"""`flash-topology`: a picture of a node's cards and links, with the flags that follow."""
