"""Speech to text: options, the engine that encodes and searches, results."""
