"""The accepting side: protocols, factories, authentication."""
