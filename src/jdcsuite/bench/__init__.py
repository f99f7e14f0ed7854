"""What training (`train`, `loops`, `priors`) and coding (`code`, `coding`) cost, against named alternatives."""
