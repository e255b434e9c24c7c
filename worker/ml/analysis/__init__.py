"""What finetuning did to a model: rewards along the way, the space of its images, their variety and their classes."""
