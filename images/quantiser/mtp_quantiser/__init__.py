"""Restores the MTP head of a stripped DeepSeek-V4-Flash checkpoint in INT4, and verifies the result."""
