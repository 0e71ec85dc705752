#!/usr/bin/env bash
# Checks which module may import which (docs: DESIGN, "Modules, and who may import whom").
#
#   ci/layers.sh              check ./src
#   ci/layers.sh DIR          check DIR/src
#   ci/layers.sh --self-test  check the checker
#
# Three rules, each violation printed as file:line:
#   1. A module imports only the crate modules in its row of the table below. Names the crate root
#      re-exports count as their module, `super::` counts as the module it reaches.
#   2. Core modules never name the HTTP crates.
#   3. `unsafe` appears in account/allocator.rs and under arena/raw/ only.
# Comments and string literals are ignored; test modules are not exempt.
#
# Needs bash, find and perl without modules (Debian's perl-base).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

check() {
    local root=$1
    (
        cd "$root"
        if ! [ -d src ]; then
            echo "layers: no src/ in $root" >&2
            exit 2
        fi
        find src -name '*.rs' -type f -print0 | LC_ALL=C sort -z | xargs -0 -r perl -e "$checker"
    )
}

# shellcheck disable=SC2016 # perl's variables, not ours
checker='
use strict;
use warnings;

# module => what it may import, besides itself. A new folder in src/ needs a row.
my %row = (
    sync       => "",
    config     => "",
    slab       => "sync",
    account    => "sync",
    arena      => "sync",
    deadline   => "sync",
    cancel     => "sync deadline",
    pool       => "sync config arena",
    route      => "sync pool",
    task       => "sync slab account cancel route",
    scope      => "sync slab account arena pool deadline cancel route task",
    observe    => "sync slab account arena pool deadline cancel route task scope",
    wire       => "sync account arena pool deadline cancel route task scope",
    middleware => "sync config account arena pool deadline cancel route task scope observe wire",
    client     => "sync account arena pool deadline cancel route task scope wire",
    extract    => "sync account arena pool deadline cancel route task scope observe wire middleware",
);
my %core    = map { $_ => 1 } qw(sync config slab account arena deadline cancel pool route task scope);
my %foreign = map { $_ => 1 } qw(http http_body tower_service tower_layer axum);
my $unsafe_home = qr{^src/(?:account/allocator\.rs|arena/raw/.*)$};

my %may;
for my $m (keys %row) { $may{$m} = { map { $_ => 1 } $m, split " ", $row{$m} } }

my (%said, $bad);
sub report {
    my ($file, $line, $text) = @_;
    return if $said{"$file:$line:$text"}++;
    print "$file:$line: $text\n";
    $bad++;
}

# Tokens as [text, line]: identifiers, "::", arrows, and single punctuation characters. Comments, strings,
# characters, lifetimes and numbers vanish.
sub tokens {
    my ($src) = @_;
    my ($line, @out) = (1);
    pos($src) = 0;
    while (pos($src) < length $src) {
        my $start = pos $src;
        my $tok;
        if    ($src =~ /\G\s+/gc) { }
        elsif ($src =~ m{\G//[^\n]*}gc) { }
        elsif ($src =~ m{\G/\*}gc) {
            my $depth = 1;
            while ($depth && $src =~ m{\G.*?(/\*|\*/)}gcs) { $depth += $1 eq "/*" ? 1 : -1 }
            pos($src) = length $src if $depth;
        }
        elsif ($src =~ /\G[bc]?r(#*)".*?"\1/gcs) { }
        elsif ($src =~ /\G[bc]?"(?:[^"\\]|\\.)*"/gcs) { }
        elsif ($src =~ /\Gb?\x27(?:[^\x27\\\n]|\\[^\n][^\x27\n]*)\x27/gc) { }
        elsif ($src =~ /\G\x27\w+/gc) { }
        elsif ($src =~ /\Gr#([^\W\d]\w*)/gc) { $tok = $1 eq "unsafe" ? "r#unsafe" : $1 }
        elsif ($src =~ /\G([^\W\d]\w*)/gc) { $tok = $1 }
        elsif ($src =~ /\G\d\w*/gc) { }
        elsif ($src =~ /\G[-=]>/gc) { $tok = "->" }
        elsif ($src =~ /\G(::)/gc) { $tok = $1 }
        elsif ($src =~ /\G(.)/gcs) { $tok = $1 }
        push @out, [$tok, $line] if defined $tok;
        $line += substr($src, $start, pos($src) - $start) =~ tr/\n//;
    }
    return \@out;
}

sub is_name { defined $_[0] && $_[0] =~ /^[^\W\d]\w*$/ }

# The paths of one use tree starting at token $i, each a list of [segment, line].
# Returns the index after the tree.
sub use_tree {
    my ($t, $i, $prefix, $paths) = @_;
    my @path = @$prefix;
    while ($i < @$t) {
        my ($text, $line) = @{ $t->[$i] };
        if ($text eq "::") { push @path, ["", $line] unless @path; $i++ }
        elsif ($text eq "{") {
            $i++;
            while ($i < @$t && $t->[$i][0] ne "}") {
                if ($t->[$i][0] eq ",") { $i++; next }
                my $before = $i;
                $i = use_tree($t, $i, \@path, $paths);
                $i++ if $i == $before;
            }
            return $i + 1;
        }
        elsif ($text eq "*") { push @$paths, [@path, ["*", $line]]; return $i + 1 }
        elsif ($text eq "as") { $i += 2; last }
        elsif (is_name($text)) { push @path, [$text, $line]; $i++ }
        else { last }
    }
    push @$paths, \@path if @path;
    return $i;
}

my (%tokens, %exported);
for my $file (@ARGV) {
    open my $in, "<", $file or die "$file: $!\n";
    local $/;
    my $src = <$in>;
    close $in;
    $tokens{$file} = tokens(defined $src ? $src : "");
}

# What a name at the crate root stands for: lib.rs re-exports, and macros, which are not paths.
sub root_module {
    my ($file) = @_;
    return $1 if $file =~ m{^src/([^/]+)/} || $file =~ m{^src/([^/]+)\.rs$};
}
for my $file (@ARGV) {
    my $t = $tokens{$file};
    for (my $i = 0; $i < @$t; $i++) {
        my $word = $t->[$i][0];
        if ($word eq "macro_rules" && $i + 2 < @$t) {
            $exported{ $t->[$i + 2][0] } = root_module($file);
        }
        next unless $file eq "src/lib.rs" && $word eq "use";
        my @paths;
        use_tree($t, $i + 1, [], \@paths);
        for my $path (@paths) {
            my @names = map { $_->[0] } @$path;
            shift @names while @names && $names[0] =~ /^(?:crate|self)$/;
            pop @names if @names > 1 && $names[-1] eq "self";
            $exported{ $names[-1] } = $names[0] if @names > 1 && exists $may{ $names[0] };
        }
    }
}

my $files = 0;
for my $file (@ARGV) {
    my $t = $tokens{$file};
    $files++;
    my $module = root_module($file);
    my $root = $file eq "src/lib.rs" || $file eq "src/main.rs";
    if (!$root && !exists $may{$module}) {
        report($file, 1, "module `$module` has no row in ci/layers.sh");
        next;
    }

    # Where `super` leads from: the file as a module path, then inline modules by brace depth.
    (my $stem = $file) =~ s{^src/}{};
    $stem =~ s{\.rs$}{};
    my @home = split m{/}, $stem;
    pop @home if $home[-1] eq "mod";
    my ($depth, @inline) = (0);

    my $judge = sub {
        my ($path, $in_use) = @_;
        my @p = @$path;
        my $line = $p[0][1];
        my $first = $p[0][0];
        my $absolute = $first eq "";
        if ($absolute) {
            shift @p;
            return unless @p;
            $first = $p[0][0];
        }
        if (!$absolute && ($first eq "crate" || $first eq "self" || $first eq "super")) {
            my @at = $first eq "crate" ? () : (@home, map { $_->[0] } @inline);
            shift @p if $first ne "super";
            while (@p && $p[0][0] eq "super") { pop @at; shift @p }
            return if @at;      # still inside this module
            return if !@p;      # visibility: pub(crate), pub(in super::super)
            my ($name, $where) = @{ $p[0] };
            my $target = exists $may{$name} ? $name : $exported{$name};
            if ($name eq "*" || $name eq "self") {
                report($file, $where, "`$module` imports the crate root whole");
            } elsif (!defined $target) {
                report($file, $where, "`$module` names `crate::$name`, which is no known module or root re-export");
            } elsif (!$may{$module}{$target}) {
                my $via = $target eq $name ? "" : " (through `crate::$name`)";
                report($file, $where, "`$module` may not import `$target`$via");
            }
            return;
        }
        if ($core{$module} && $foreign{$first} && ($in_use || $absolute || @p > 1)) {
            report($file, $line, "core module `$module` names the crate `$first`");
        }
    };

    my $i = 0;
    while ($i < @$t) {
        my ($text, $line) = @{ $t->[$i] };
        if ($text eq "unsafe" && $file !~ $unsafe_home) {
            report($file, $line, "`unsafe` outside account/allocator.rs and arena/raw/");
        }
        if ($root) { $i++; next }
        if ($text eq "{") { $depth++; $i++; next }
        if ($text eq "}") {
            pop @inline if @inline && $inline[-1][1] == $depth;
            $depth--;
            $i++;
            next;
        }
        if ($text eq "mod" && $i + 2 < @$t && $t->[$i + 2][0] eq "{") {
            $depth++;
            push @inline, [$t->[$i + 1][0], $depth];
            $i += 3;
            next;
        }
        if ($text eq "extern" && $i + 2 < @$t && $t->[$i + 1][0] eq "crate") {
            my $name = $t->[$i + 2][0];
            report($file, $line, "`$module` renames the crate root") if $name eq "self";
            report($file, $line, "core module `$module` names the crate `$name`")
                if $core{$module} && $foreign{$name};
            $i += 3;
            next;
        }
        # `use<..>` in a type captures lifetimes; it is not an import.
        if ($text eq "use" && $i + 1 < @$t && $t->[$i + 1][0] ne "<") {
            my @paths;
            $i = use_tree($t, $i + 1, [], \@paths);
            $judge->($_, 1) for @paths;
            next;
        }
        if ($text eq "::" || is_name($text)) {
            my @path;
            if ($text eq "::") {
                # `>::`, `)::` and `]::` continue something; anything else starts at the crates.
                my $before = $i ? $t->[$i - 1][0] : "";
                push @path, ["", $line] unless $before =~ /^[>)\]]$/;
                $i++;
                if (!@path) {
                    $i++ while $i < @$t && ($t->[$i][0] eq "::" || is_name($t->[$i][0]));
                    next;
                }
            }
            while ($i < @$t && is_name($t->[$i][0])) {
                push @path, $t->[$i];
                $i++;
                last unless $i + 1 < @$t && $t->[$i][0] eq "::" && is_name($t->[$i + 1][0]);
                $i++;
            }
            # A turbofish: the path ends, what is between the angles is read as paths of its own.
            $i++ if $i + 1 < @$t && $t->[$i][0] eq "::" && $t->[$i + 1][0] eq "<";
            $judge->(\@path, 0) if @path;
            next;
        }
        $i++;
    }
}

if (!$files) { print "layers: no Rust files found\n"; exit 2 }
if ($bad) { print "layers: $bad violation(s) in $files files\n"; exit 1 }
print "layers: $files files, no violation\n";
'

# shellcheck disable=SC2016 # backticks quote names in messages
self_test() {
    local tmp out status=0
    tmp=$(mktemp -d)
    # shellcheck disable=SC2064 # the path is fixed now
    trap "rm -rf '$tmp'" EXIT

    expect() { # expect FILE:LINE TEXT
        if ! grep -Fq "$1: $2" <<<"$out"; then
            echo "self-test: expected '$1: $2'" >&2
            status=1
        fi
    }

    mkdir -p "$tmp/bad/src"/{account,arena/raw,pool,cancel,scope,observe,wire,middleware,extract,stray}
    cat >"$tmp/bad/src/lib.rs" <<'RS'
pub use crate::scope::{config::Config, RequestScope as Scope, RequestScope};
fn f() { unsafe { g() } }
RS
    echo 'use crate::account::Account;' >"$tmp/bad/src/sync.rs"
    cat >"$tmp/bad/src/account/mod.rs" <<'RS'
use crate::{
    sync::Arc,
    arena::{
        Arena,
        raw::Chunk,
    },
    pool as shelf,
};
RS
    cat >"$tmp/bad/src/arena/mod.rs" <<'RS'
fn a() -> u8 { let c = '"'; crate::pool::give(c) }
fn b() { super::cancel::now() }
use crate::*;
mod inner {
    use super::super::scope::X;
    use super::fine;
}
fn c<'a>(x: &'a u8) -> crate::RequestScope { Vec::<crate::observe::Y>::new() }
RS
    echo 'use super::super::scope::Y;' >"$tmp/bad/src/arena/raw/mod.rs"
    cat >"$tmp/bad/src/pool/mod.rs" <<'RS'
/* /* nested */ use crate::scope::A; */
use http::HeaderMap;
use {bytes::Bytes, http_body as body};
fn a() -> ::axum::Router { todo!() }
fn b(_: impl tower_service::Service<()>) {}
extern crate tower_layer;
RS
    cat >"$tmp/bad/src/cancel/mod.rs" <<'RS'
use crate::{self as root, Nowhere};
unsafe fn a() {}
unsafe impl Send for X {}
RS
    echo 'use crate::wire::A;' >"$tmp/bad/src/scope/mod.rs"
    echo 'use crate::wire::A;' >"$tmp/bad/src/observe/mod.rs"
    echo 'use crate::{scope::A, observe::B};' >"$tmp/bad/src/wire/mod.rs"
    echo '#[cfg(test)] mod tests { use crate::extract::A; }' >"$tmp/bad/src/middleware/mod.rs"
    echo 'fn a() { unsafe { b() } }' >"$tmp/bad/src/extract/mod.rs"
    echo >"$tmp/bad/src/stray/mod.rs"

    local code=0
    out=$(check "$tmp/bad") || code=$?
    # xargs turns the checker's exit 1 into 123.
    if [ "$code" -eq 0 ]; then
        echo "self-test: the violating tree passed" >&2
        status=1
    fi
    expect src/lib.rs:2 '`unsafe` outside'
    expect src/sync.rs:1 '`sync` may not import `account`'
    expect src/account/mod.rs:3 '`account` may not import `arena`'
    expect src/account/mod.rs:7 '`account` may not import `pool`'
    expect src/arena/mod.rs:1 '`arena` may not import `pool`'
    expect src/arena/mod.rs:2 '`arena` may not import `cancel`'
    expect src/arena/mod.rs:3 '`arena` imports the crate root whole'
    expect src/arena/mod.rs:5 '`arena` may not import `scope`'
    expect src/arena/mod.rs:8 '`arena` may not import `scope` (through `crate::RequestScope`)'
    expect src/arena/mod.rs:8 '`arena` may not import `observe`'
    expect src/arena/raw/mod.rs:1 '`arena` may not import `scope`'
    expect src/pool/mod.rs:2 'core module `pool` names the crate `http`'
    expect src/pool/mod.rs:3 'core module `pool` names the crate `http_body`'
    expect src/pool/mod.rs:4 'core module `pool` names the crate `axum`'
    expect src/pool/mod.rs:5 'core module `pool` names the crate `tower_service`'
    expect src/pool/mod.rs:6 'core module `pool` names the crate `tower_layer`'
    expect src/cancel/mod.rs:1 '`cancel` imports the crate root whole'
    expect src/cancel/mod.rs:1 '`cancel` names `crate::Nowhere`'
    expect src/cancel/mod.rs:2 '`unsafe` outside'
    expect src/cancel/mod.rs:3 '`unsafe` outside'
    expect src/scope/mod.rs:1 '`scope` may not import `wire`'
    expect src/observe/mod.rs:1 '`observe` may not import `wire`'
    expect src/wire/mod.rs:1 '`wire` may not import `observe`'
    expect src/middleware/mod.rs:1 '`middleware` may not import `extract`'
    expect src/extract/mod.rs:1 '`unsafe` outside'
    expect src/stray/mod.rs:1 'module `stray` has no row'
    local found
    found=$(grep -c '^src/' <<<"$out") || true
    if [ "$found" -ne 26 ]; then
        echo "self-test: expected 26 violations, got $found:" >&2
        echo "$out" >&2
        status=1
    fi

    mkdir -p "$tmp/good/src"/{account,arena/raw,pool,cancel,scope,observe,wire,middleware,extract}
    cat >"$tmp/good/src/lib.rs" <<'RS'
#![deny(unsafe_code)]
mod sync;
pub mod arena;
pub use arena::{Arena, raw::Chunk};
RS
    echo 'pub(crate) use std::sync::Arc;' >"$tmp/good/src/sync.rs"
    echo 'unsafe impl GlobalAlloc for X { unsafe fn a() { unsafe { b() } } }' >"$tmp/good/src/account/allocator.rs"
    cat >"$tmp/good/src/arena/mod.rs" <<'RS'
//! See crate::scope and [`http::HeaderMap`]; unsafe { } is elsewhere.
// use crate::scope::X;
/* use crate::scope::Y; /* unsafe { } */ use axum::Router; */
use crate::{arena::raw::Chunk, sync::{self, Arc}};
pub(in crate::arena) mod raw;
pub(crate) fn a<'a>(x: &'a str) -> impl Sized + use<'a> {
    let q = ('"', '\'', b'"', r#"use crate::scope::Z; "unsafe { }"#, "\" axum::Router");
    let axum = q.0; let http = 1;
    (axum, http, Q { http: 2 }, crate::Arena::new::<Chunk>())
}
mod tests { use super::*; use super::super::sync::Arc; mod deep { use super::super::a; } }
RS
    echo 'use super::Arena; fn a() { unsafe { crate::arena::b() } }' >"$tmp/good/src/arena/raw/mod.rs"
    echo 'use crate::{arena::Arena, sync::Arc};' >"$tmp/good/src/pool/mod.rs"
    echo 'use crate::sync::Arc;' >"$tmp/good/src/cancel/mod.rs"
    echo 'use crate::{account::A, arena::B, cancel::C, pool::D, sync::E};' >"$tmp/good/src/scope/mod.rs"
    echo 'use crate::scope::A;' >"$tmp/good/src/observe/mod.rs"
    echo 'use crate::scope::A; use http::HeaderMap;' >"$tmp/good/src/wire/mod.rs"
    echo 'use crate::{wire::A, observe::B, scope::C}; use tower_service::Service;' >"$tmp/good/src/middleware/mod.rs"
    echo 'use crate::{wire::A, middleware::B}; use ::axum::Router;' >"$tmp/good/src/extract/mod.rs"
    if ! out=$(check "$tmp/good"); then
        echo "self-test: the clean tree failed:" >&2
        echo "$out" >&2
        status=1
    fi

    [ "$status" -eq 0 ] && echo "layers: self-test passed"
    return "$status"
}

case ${1-} in
--self-test) self_test ;;
-*)
    echo "usage: ci/layers.sh [--self-test | DIR]" >&2
    exit 2
    ;;
*) check "${1:-$here/..}" || exit 1 ;;
esac
