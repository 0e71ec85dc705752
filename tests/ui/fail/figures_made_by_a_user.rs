use tower_memory::scope::{ArenaSource, ArenaUsage};

fn main() {
    let _ = ArenaUsage {
        source: ArenaSource::Fresh,
        bytes: 0,
        capacity: 0,
    };
}
