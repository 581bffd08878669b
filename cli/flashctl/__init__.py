"""`kubectl dsf` and `flashctl`: shows, explains and operates DeepSeek-Flash deployments with the user's own rights."""
