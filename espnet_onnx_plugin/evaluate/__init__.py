"""How far a bundle is from another: graphs, tokens, error rates, speech, speed."""
