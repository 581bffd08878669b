"""DeepSeek-Flash Operator: reconciles DeepSeekFlashDeployments into engine pods that proved their decode speed."""
