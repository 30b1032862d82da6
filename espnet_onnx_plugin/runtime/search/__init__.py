"""The searches and the scorers that they ask."""
