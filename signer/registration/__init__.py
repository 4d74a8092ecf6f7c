"""Registration authorities, their people, and the requests that these sign: who may ask for what, and who asked."""
