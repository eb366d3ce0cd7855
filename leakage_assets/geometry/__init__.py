"""Hidden states, centroids and next-token divergences of prompts."""
