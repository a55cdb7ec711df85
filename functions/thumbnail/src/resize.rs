//! Decodes, reduces and encodes one image; every bound is checked before the pixels are decoded.

use std::fmt;
use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType as PngFilter, PngEncoder};
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageEncoder, ImageFormat, ImageReader, Limits, Rgba, RgbaImage};

use crate::wanted::{Format, Wanted};

/// Most pixels of an input.
pub const PIXELS_MAX: u64 = 25_000_000;
/// Most bytes of a decoded input; what a 16-bit image with transparency meets before [`PIXELS_MAX`].
pub const DECODED_BYTES_MAX: u64 = 100_000_000;

const JPEG_QUALITY: u8 = 85;
const COLOUR_PROFILE_BYTES_MAX: usize = 64 << 10;

/// A small image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbnail {
    /// Its media type.
    pub content_type: &'static str,
    /// The encoded image.
    pub bytes: Vec<u8>,
}

/// Why there is no small image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Neither a JPEG nor a PNG image.
    Unsupported,
    /// Over a bound.
    TooLarge {
        /// The width it says it has.
        width: u32,
        /// The height it says it has.
        height: u32,
    },
    /// It begins like an image but cannot be decoded.
    Broken,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => f.write_str("the body is neither a JPEG nor a PNG image"),
            Self::TooLarge { width, height } => write!(
                f,
                "the image is {width} x {height} pixels; at most {PIXELS_MAX} pixels and {DECODED_BYTES_MAX} bytes \
                 are decoded"
            ),
            Self::Broken => f.write_str("the image cannot be decoded"),
        }
    }
}

/// Returns `input` made small as `wanted`.
///
/// # Errors
/// [`Refusal`]; nothing is decoded when a bound is exceeded.
pub fn thumbnail(input: &[u8], wanted: &Wanted) -> Result<Thumbnail, Refusal> {
    let mut reader = ImageReader::new(Cursor::new(input)).with_guessed_format().map_err(|_| Refusal::Unsupported)?;
    let came = match reader.format() {
        Some(ImageFormat::Jpeg) => Format::Jpeg,
        Some(ImageFormat::Png) => Format::Png,
        _ => return Err(Refusal::Unsupported),
    };
    // The bounds are checked below, on the sizes in the image's head; the
    // library's own limits would answer without saying what was exceeded.
    reader.limits(Limits::no_limits());
    let mut decoder = reader.into_decoder().map_err(|_| Refusal::Broken)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > PIXELS_MAX || decoder.total_bytes() > DECODED_BYTES_MAX {
        return Err(Refusal::TooLarge { width, height });
    }
    let orientation = decoder.orientation().map_err(|_| Refusal::Broken)?;
    let profile = decoder.icc_profile().ok().flatten();
    let image = DynamicImage::from_decoder(decoder).map_err(|_| Refusal::Broken)?;

    // Turning the small image is cheaper than turning the large one: the box
    // is turned instead.
    let turned = is_quarter_turn(orientation);
    let (width, height) = if turned { (height, width) } else { (width, height) };
    let (width, height) = wanted.size(width, height);
    let (width, height) = if turned { (height, width) } else { (width, height) };
    let mut small = reduce(image, width, height);
    small.apply_orientation(orientation);
    encode(&small, wanted.format.unwrap_or(came), profile)
}

fn is_quarter_turn(orientation: image::metadata::Orientation) -> bool {
    use image::metadata::Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Reduces to exactly `width` x `height`, with 8 bits a channel.
fn reduce(image: DynamicImage, width: u32, height: u32) -> DynamicImage {
    if image.color().has_alpha() {
        let mut image = image.into_rgba8();
        premultiply(&mut image);
        let DynamicImage::ImageRgba8(mut small) = shrink(DynamicImage::ImageRgba8(image), width, height) else {
            unreachable!("reducing keeps the kind of pixel");
        };
        unmultiply(&mut small);
        DynamicImage::ImageRgba8(small)
    } else if image.color().has_color() {
        shrink(DynamicImage::ImageRgb8(image.into_rgb8()), width, height)
    } else {
        shrink(DynamicImage::ImageLuma8(image.into_luma8()), width, height)
    }
}

/// Filters with Lanczos; an image more than four times too large is first
/// averaged down to twice the size, which is fast: as sharp as the filter on the
/// whole image at a fraction of its time and memory. Nearer than that the average
/// would take unequal numbers of pixels, which shows.
fn shrink(image: DynamicImage, width: u32, height: u32) -> DynamicImage {
    let far = image.width() > width * 4 && image.height() > height * 4;
    let near = if far { image.thumbnail_exact(width * 2, height * 2) } else { image };
    near.resize_exact(width, height, FilterType::Lanczos3)
}

/// Weighs colours by their opacity, so that the colour of invisible pixels does not bleed into visible ones.
fn premultiply(image: &mut RgbaImage) {
    for Rgba([r, g, b, a]) in image.pixels_mut() {
        for channel in [r, g, b] {
            *channel = ratio(u32::from(*channel) * u32::from(*a), 255);
        }
    }
}

fn unmultiply(image: &mut RgbaImage) {
    for Rgba([r, g, b, a]) in image.pixels_mut() {
        for channel in [r, g, b] {
            *channel = ratio(u32::from(*channel) * 255, u32::from(*a));
        }
    }
}

/// Returns `part / whole` rounded, at most 255; 0 for nothing of nothing.
fn ratio(part: u32, whole: u32) -> u8 {
    let rounded = (part + whole / 2).checked_div(whole).unwrap_or(0);
    u8::try_from(rounded).unwrap_or(u8::MAX)
}

fn encode(image: &DynamicImage, format: Format, profile: Option<Vec<u8>>) -> Result<Thumbnail, Refusal> {
    let mut bytes = Vec::new();
    let profile = profile.filter(|profile| fits(profile, image));
    match format {
        Format::Jpeg => {
            let opaque = image.as_rgba8().map(|image| DynamicImage::ImageRgb8(over_white(image)));
            let mut encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
            if let Some(profile) = profile {
                encoder.set_icc_profile(profile).map_err(|_| Refusal::Broken)?;
            }
            opaque.as_ref().unwrap_or(image).write_with_encoder(encoder).map_err(|_| Refusal::Broken)?;
            Ok(Thumbnail { content_type: "image/jpeg", bytes })
        }
        Format::Png => {
            let mut encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, PngFilter::Adaptive);
            if let Some(profile) = profile {
                encoder.set_icc_profile(profile).map_err(|_| Refusal::Broken)?;
            }
            image.write_with_encoder(encoder).map_err(|_| Refusal::Broken)?;
            Ok(Thumbnail { content_type: "image/png", bytes })
        }
    }
}

/// Tells whether a colour profile speaks of the colours that are written: CMYK and others were converted.
fn fits(profile: &[u8], image: &DynamicImage) -> bool {
    let space: &[u8] = if image.color().has_color() { b"RGB " } else { b"GRAY" };
    profile.len() <= COLOUR_PROFILE_BYTES_MAX && profile.get(16..20) == Some(space)
}

fn over_white(image: &RgbaImage) -> image::RgbImage {
    image::RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let Rgba([r, g, b, a]) = *image.get_pixel(x, y);
        let blend = |c: u8| ratio(u32::from(c) * u32::from(a) + 255 * (255 - u32::from(a)), 255);
        image::Rgb([blend(r), blend(g), blend(b)])
    })
}
