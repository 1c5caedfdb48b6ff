"""Models in this process: chat templates, sampling and likelihoods."""
