"""Tastemaker's GPU side: Celery tasks, job handlers and the pure machine-learning core."""
