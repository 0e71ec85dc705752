# One target per CI job, same names; `.ci/run` holds the commands.

# Every job, in CI's order.
ci:
    .ci/run

fmt:
    .ci/run fmt

clippy:
    .ci/run clippy

layers:
    .ci/run layers

deps:
    .ci/run deps

api:
    .ci/run api

# Writes docs/public-api.txt anew, after a change that is meant.
api-bless:
    BLESS=1 .ci/run api

test:
    .ci/run test

# `just bugs` seeds all, or those that are named.
bugs *args:
    ci/bugs {{args}}

features:
    .ci/run features

docs:
    .ci/run docs

examples:
    .ci/run examples

abort:
    .ci/run abort

i686:
    .ci/run i686

loom:
    .ci/run loom

asan:
    .ci/run asan

tsan:
    .ci/run tsan

fuzz:
    .ci/run fuzz

benches:
    .ci/run benches

# `just instructions --against REV` compares with a revision.
instructions *args:
    ci/instructions {{args}}

miri:
    .ci/run miri

msrv:
    .ci/run msrv

minimal:
    .ci/run minimal

platforms:
    .ci/run platforms

# Five million requests that end badly. The report is docs/soak.md; `just soak 1000000` sends fewer.
soak requests="5000000":
    SOAK_REQUESTS={{requests}} SOAK_REPORT=docs/soak.md cargo test --release --all-features --test soak

# The circles of files in src, with the imports that make them.
circles:
    cargo run --quiet --manifest-path ci/layers/Cargo.toml --target-dir target/ci -- --graph

# The figures in the documentation; arguments go to the bench binary.
bench *args:
    cargo bench -p tower-memory-targets --bench targets -- {{args}}

# The same with mimalloc as the allocator.
bench-mimalloc *args:
    cargo bench -p tower-memory-targets --bench targets-mimalloc -- {{args}}
