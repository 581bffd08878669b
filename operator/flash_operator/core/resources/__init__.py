"""The children of a DeepSeekFlashDeployment, one module each: pure builders of whole desired objects."""
