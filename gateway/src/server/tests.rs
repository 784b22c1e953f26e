//! The routes over real connections.
