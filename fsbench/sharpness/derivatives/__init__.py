"""Gradients of single examples, Hessian-vector products and the logit Hessian: what measures are computed from."""
