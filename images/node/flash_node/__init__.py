"""What runs on every GPU node: it reads the links between the GPUs, labels the node with them, and draws them."""
