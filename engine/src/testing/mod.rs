pub mod conformance;
pub mod doors;
