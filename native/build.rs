//! Embeds what the addon was built from, so that a prebuilt binary can be told from a stale one.
//! `source-hash.js` computes the same hash; a change to one is a change to the other.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

fn main() {
    napi_build::setup();
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    println!(
        "cargo:rustc-env=TUNNEL_NATIVE_SOURCE_HASH={}",
        source_hash(&root)
    );
    println!("cargo:rustc-env=TUNNEL_NATIVE_IROH={}", iroh_version(&root));
    let target = env::var("TARGET").expect("cargo sets it");
    println!("cargo:rustc-env=TUNNEL_NATIVE_TARGET={target}");
    for path in [
        "src",
        "patches",
        "build.rs",
        "patch.js",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo:rerun-if-changed={path}");
    }
}

/// Each file by its name and length, so that moving text from one file to the next changes the hash.
fn source_hash(root: &Path) -> String {
    let mut names = ["Cargo.lock", "Cargo.toml", "build.rs", "patch.js"]
        .map(String::from)
        .to_vec();
    collect(root, "src", &mut names);
    collect(root, "patches", &mut names);
    names.sort();
    let mut hash = Sha256::new();
    for name in names {
        let bytes = fs::read(root.join(&name)).expect("a source file is readable");
        // A checkout with CRLF line ends is the same source.
        let text = String::from_utf8(bytes)
            .expect("sources are UTF-8")
            .replace("\r\n", "\n");
        hash.update(format!("{name}\0{}\0", text.len()));
        hash.update(text);
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn collect(root: &Path, folder: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(root.join(folder)).expect("it is a folder") {
        let entry = entry.expect("it is readable");
        let name = format!(
            "{folder}/{}",
            entry.file_name().to_str().expect("UTF-8 names")
        );
        if entry.path().is_dir() {
            collect(root, &name, names);
        } else {
            names.push(name);
        }
    }
}

fn iroh_version(root: &Path) -> String {
    let lock = fs::read_to_string(root.join("Cargo.lock")).expect("Cargo.lock is readable");
    let mut lines = lock.lines().skip_while(|line| *line != "name = \"iroh\"");
    let version = lines.nth(1).and_then(|line| line.split('"').nth(1));
    version.expect("iroh is in Cargo.lock").into()
}
