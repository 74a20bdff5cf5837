"""The lab's own processes beside the hub, run by it as JupyterHub services. Owns nothing itself."""
