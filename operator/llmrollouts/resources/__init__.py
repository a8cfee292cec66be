"""L1: pure makers of the desired children of an LLMDeployment."""
