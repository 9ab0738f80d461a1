"""What packed rows need: which tokens see each other, and the kernels that compute it; images packed likewise."""
