"""The decomposer's Bayesian search (DeBo, section III-C): a policy as numbers, a surrogate, a journal, the loop."""
