//! The sealed form of one file: pure but for the random salt it is given.
//!
//! ```text
//! "PDEVSEAL" | version 1 | salt, 32 bytes | AES-256-GCM ciphertext and tag
//! ```
//!
//! Key and nonce of a file come from the vault's data key and the file's own random salt by HKDF-SHA-256 (RFC 5869), so
//! no nonce is ever used twice under one key, however often files are written. The vault's and the item's name are
//! authenticated with the bytes: a file that is copied over another one does not open.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

pub(crate) const KEY_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"PDEVSEAL";
const VERSION: u8 = 1;
const SALT_BYTES: usize = 32;
const HEAD_BYTES: usize = MAGIC.len() + 1 + SALT_BYTES;
const TAG_BYTES: usize = 16;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum SealProblem {
    /// Written by a later pdev.
    Newer(u8),
    /// Cut off, or not a sealed file at all.
    Truncated,
    /// Another key, another name, or changed bytes; which of them cannot be told.
    NotAuthentic,
}

struct KeyAndNonce;

impl KeyType for KeyAndNonce {
    fn len(&self) -> usize {
        KEY_BYTES + NONCE_LEN
    }
}

pub(super) fn seal(key: &[u8; KEY_BYTES], name: &str, salt: &[u8; SALT_BYTES], plain: &[u8]) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_BYTES + plain.len() + TAG_BYTES);
    head.extend_from_slice(MAGIC);
    head.push(VERSION);
    head.extend_from_slice(salt);
    let (key, nonce) = derive_key_and_nonce(key, salt);
    // Encrypted in place, so the only copy of the plain bytes is wiped by becoming the ciphertext.
    let mut body = plain.to_vec();
    let bound = Aad::from([head.as_slice(), name.as_bytes()].concat());
    key.seal_in_place_append_tag(nonce, bound, &mut body).expect("a file is far below the limit of AES-GCM");
    head.append(&mut body);
    head
}

pub(super) fn open(key: &[u8; KEY_BYTES], name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealProblem> {
    if sealed.len() < MAGIC.len() + 1 || &sealed[..MAGIC.len()] != MAGIC {
        return Err(SealProblem::Truncated);
    }
    if sealed[MAGIC.len()] != VERSION {
        return Err(SealProblem::Newer(sealed[MAGIC.len()]));
    }
    let (Some(head), Some(body)) = (sealed.get(..HEAD_BYTES), sealed.get(HEAD_BYTES..)) else {
        return Err(SealProblem::Truncated);
    };
    if body.len() < TAG_BYTES {
        return Err(SealProblem::Truncated);
    }
    let (key, nonce) = derive_key_and_nonce(key, &head[MAGIC.len() + 1..]);
    let mut plain = Zeroizing::new(body.to_vec());
    let bound = Aad::from([head, name.as_bytes()].concat());
    let length = key.open_in_place(nonce, bound, &mut plain).map_err(|_| SealProblem::NotAuthentic)?.len();
    plain.truncate(length);
    Ok(plain)
}

fn derive_key_and_nonce(key: &[u8; KEY_BYTES], salt: &[u8]) -> (LessSafeKey, Nonce) {
    let mut bytes = Zeroizing::new([0; KEY_BYTES + NONCE_LEN]);
    let pseudo_random = Salt::new(HKDF_SHA256, salt).extract(key);
    let expanded =
        pseudo_random.expand(&[b"pdev vault file 1"], KeyAndNonce).expect("44 bytes are far below 255 blocks");
    expanded.fill(bytes.as_mut_slice()).expect("the length is the one that was asked for");
    let of_file = UnboundKey::new(&AES_256_GCM, &bytes[..KEY_BYTES]).expect("32 bytes are a key of AES-256");
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&bytes[KEY_BYTES..]);
    (LessSafeKey::new(of_file), Nonce::assume_unique_for_key(nonce))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_file_opens_only_with_its_name_and_key() {
        let (key, salt) = ([7; 32], [9; 32]);
        let sealed = seal(&key, "v/a", &salt, b"canary");
        assert!(!sealed.windows(6).any(|part| part == b"canary"));
        assert_eq!(open(&key, "v/a", &sealed).unwrap().as_slice(), b"canary");
        assert_eq!(open(&key, "v/b", &sealed).unwrap_err(), SealProblem::NotAuthentic);
        assert_eq!(open(&[8; 32], "v/a", &sealed).unwrap_err(), SealProblem::NotAuthentic);
        assert_ne!(seal(&key, "v/a", &[1; 32], b"canary")[HEAD_BYTES..], sealed[HEAD_BYTES..]);
    }

    #[test]
    fn changed_or_truncated_file_is_refused() {
        let (key, salt) = ([7; 32], [9; 32]);
        let sealed = seal(&key, "n", &salt, b"some bytes");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&key, "n", &changed).is_err(), "byte {at}");
            assert!(open(&key, "n", &sealed[..at]).is_err(), "cut at {at}");
        }
        let mut newer = sealed;
        newer[8] = 2;
        assert_eq!(open(&key, "n", &newer).unwrap_err(), SealProblem::Newer(2));
    }
}
