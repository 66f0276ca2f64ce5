//! gke
