"""`flash-topology`: draws a node's cards and links, with the resulting flags."""
