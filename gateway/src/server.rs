//! The `/v2/` routes, on axum.
