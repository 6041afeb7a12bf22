"""ftx's command lines inside container images, by Docker or Podman."""
