//! Decides which worker should hold which lease, and who decides.
