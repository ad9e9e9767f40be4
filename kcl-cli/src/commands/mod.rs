//! The commands.

pub(crate) mod doctor;
pub(crate) mod estimate;
pub(crate) mod export;
pub(crate) mod fleet;
pub(crate) mod import;
pub(crate) mod lag;
pub(crate) mod list;
pub(crate) mod orders;
pub(crate) mod records;
pub(crate) mod reset;
pub(crate) mod scaler;
pub(crate) mod serve;
pub(crate) mod top;
pub(crate) mod watch;
