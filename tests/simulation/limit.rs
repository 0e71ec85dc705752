//! The crate's files, which are not public.

#[allow(dead_code, unreachable_pub)]
#[path = "../../src/limit/mean.rs"]
pub(crate) mod mean;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/limit/policy.rs"]
pub(crate) mod policy;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/limit/stage.rs"]
pub(crate) mod stage;
