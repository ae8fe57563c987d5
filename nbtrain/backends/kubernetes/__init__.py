"""Runs as Jobs of a Kubernetes cluster; nothing of the kubernetes client is known elsewhere."""
