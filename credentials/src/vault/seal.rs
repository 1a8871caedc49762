//! The sealed format of a file. Pure, except that the caller provides the random salt.
//!
//! ```text
//! "PDEVSEAL" | version 1 | salt, 32 bytes | AES-256-GCM ciphertext and tag
//! ```
//!
//! The key and nonce of a file are derived from the data key of the vault and the file's own random salt by
//! HKDF-SHA-256 (RFC 5869). Therefore no nonce is used twice under one key, however often files are written. The names
//! of the vault and the item are authenticated with the bytes: a file that is copied over another one does not open.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

pub(crate) const KEY_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"PDEVSEAL";
const VERSION: u8 = 1;
const SALT_BYTES: usize = 32;
const HEADER_BYTES: usize = MAGIC.len() + 1 + SALT_BYTES;
const TAG_BYTES: usize = 16;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum SealProblem {
    /// Written by a later pdev.
    Newer(u8),
    /// Truncated, or not a sealed file.
    Truncated,
    /// Another key, another name, or changed bytes. These cases cannot be distinguished.
    NotAuthentic,
}

struct KeyAndNonce;

impl KeyType for KeyAndNonce {
    fn len(&self) -> usize {
        KEY_BYTES + NONCE_LEN
    }
}

pub(super) fn seal(key: &[u8; KEY_BYTES], name: &str, salt: &[u8; SALT_BYTES], plain: &[u8]) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES + plain.len() + TAG_BYTES);
    header.extend_from_slice(MAGIC);
    header.push(VERSION);
    header.extend_from_slice(salt);
    let (key, nonce) = derive_key_and_nonce(key, salt);
    // Encrypt in place, so that the ciphertext overwrites this copy of the plain bytes.
    let mut body = plain.to_vec();
    let associated_data = Aad::from([header.as_slice(), name.as_bytes()].concat());
    key.seal_in_place_append_tag(nonce, associated_data, &mut body).expect("a file is far below the limit of AES-GCM");
    header.append(&mut body);
    header
}

pub(super) fn open(key: &[u8; KEY_BYTES], name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealProblem> {
    if sealed.len() < MAGIC.len() + 1 || &sealed[..MAGIC.len()] != MAGIC {
        return Err(SealProblem::Truncated);
    }
    // Check the version before the length, so that a newer format is not reported as damage.
    if sealed[MAGIC.len()] != VERSION {
        return Err(SealProblem::Newer(sealed[MAGIC.len()]));
    }
    let (Some(header), Some(body)) = (sealed.get(..HEADER_BYTES), sealed.get(HEADER_BYTES..)) else {
        return Err(SealProblem::Truncated);
    };
    if body.len() < TAG_BYTES {
        return Err(SealProblem::Truncated);
    }
    let (key, nonce) = derive_key_and_nonce(key, &header[MAGIC.len() + 1..]);
    let mut plain = Zeroizing::new(body.to_vec());
    let associated_data = Aad::from([header, name.as_bytes()].concat());
    let length = key.open_in_place(nonce, associated_data, &mut plain).map_err(|_| SealProblem::NotAuthentic)?.len();
    plain.truncate(length);
    Ok(plain)
}

fn derive_key_and_nonce(key: &[u8; KEY_BYTES], salt: &[u8]) -> (LessSafeKey, Nonce) {
    let mut bytes = Zeroizing::new([0; KEY_BYTES + NONCE_LEN]);
    let pseudo_random = Salt::new(HKDF_SHA256, salt).extract(key);
    let expanded =
        pseudo_random.expand(&[b"pdev vault file 1"], KeyAndNonce).expect("44 bytes are far below 255 blocks");
    expanded.fill(bytes.as_mut_slice()).expect("the length is the requested one");
    let file_key = UnboundKey::new(&AES_256_GCM, &bytes[..KEY_BYTES]).expect("an AES-256 key has 32 bytes");
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&bytes[KEY_BYTES..]);
    (LessSafeKey::new(file_key), Nonce::assume_unique_for_key(nonce))
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
        assert_ne!(seal(&key, "v/a", &[1; 32], b"canary")[HEADER_BYTES..], sealed[HEADER_BYTES..]);
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
