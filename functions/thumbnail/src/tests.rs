//! The whole function on real photographs, and on what is none.

use image::{DynamicImage, GenericImageView, ImageFormat, Rgb, Rgba, RgbaImage};

use super::*;

const JPEG: &[u8] = include_bytes!("../photos/chelsea.jpg");
const PNG: &[u8] = include_bytes!("../photos/chelsea.png");

fn post(query: &str, body: &[u8]) -> Response {
    let (method, path) = ("POST".to_owned(), "/".to_owned());
    handle(Request { method, path, query: query.to_owned(), body: body.to_vec() })
}

fn status(query: &str, body: &[u8]) -> u16 {
    post(query, body).status
}

fn resized(query: &str, body: &[u8], format: ImageFormat) -> DynamicImage {
    let response = post(query, body);
    assert_eq!(response.status, 200, "{}", String::from_utf8_lossy(&response.body));
    assert_eq!(response.headers, [("content-type", format.to_mime_type().to_owned())]);
    image::load_from_memory_with_format(&response.body, format).unwrap()
}

/// Mean of each channel over a part of the image.
fn mean(image: &DynamicImage, x: u32, y: u32, width: u32, height: u32) -> [f64; 3] {
    let mut sum = [0.0; 3];
    for (_, _, Rgba([r, g, b, _])) in image.view(x, y, width, height).pixels() {
        for (sum, channel) in sum.iter_mut().zip([r, g, b]) {
            *sum += f64::from(channel);
        }
    }
    sum.map(|s| s / f64::from(width * height))
}

fn near(a: [f64; 3], b: [f64; 3], distance: f64) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() <= distance)
}

#[test]
fn a_photograph_keeps_its_aspect_its_format_and_its_look() {
    for (photo, format) in [(JPEG, ImageFormat::Jpeg), (PNG, ImageFormat::Png)] {
        let original = image::load_from_memory(photo).unwrap();
        assert_eq!(original.dimensions(), (451, 300));
        let small = resized("width=200", photo, format);
        assert_eq!(small.dimensions(), (200, 133));
        // The photograph is told apart by its parts: each quarter keeps its own mean colour.
        for (x, y) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let of_original = mean(&original, x * 225, y * 150, 225, 150);
            let of_small = mean(&small, x * 100, y * 66, 100, 66);
            assert!(near(of_original, of_small, 2.5), "{format:?} quarter {x} {y}: {of_original:?} {of_small:?}");
        }
        let (left, right) = (mean(&small, 0, 0, 100, 66), mean(&small, 100, 66, 100, 66));
        assert!(!near(left, right, 10.0), "the quarters of this photograph differ: {left:?} {right:?}");
    }
}

#[test]
fn a_thumbnail_is_as_sharp_as_the_filter_on_the_whole_image() {
    let whole = image::load_from_memory(PNG).unwrap().resize_exact(100, 67, image::imageops::FilterType::Lanczos3);
    let small = resized("width=100", PNG, ImageFormat::Png);
    let difference = |a: &DynamicImage, b: &DynamicImage| {
        let pairs = a.to_rgb8().into_raw().into_iter().zip(b.to_rgb8().into_raw());
        pairs.map(|(a, b)| f64::from(a.abs_diff(b))).sum::<f64>() / f64::from(100 * 67 * 3)
    };
    assert!(difference(&whole, &small) < 2.0, "{}", difference(&whole, &small));
    let blurred = whole.blur(1.0);
    assert!(difference(&whole, &blurred) > 2.0 * difference(&whole, &small), "the measure sees lost sharpness");
}

#[test]
fn the_format_can_be_changed() {
    assert_eq!(resized("width=64&format=png", JPEG, ImageFormat::Png).dimensions(), (64, 43));
    assert_eq!(resized("height=30&format=jpeg", PNG, ImageFormat::Jpeg).dimensions(), (45, 30));
    assert!(post("width=200", JPEG).body.len() < JPEG.len() / 3);
}

#[test]
fn a_small_image_is_not_enlarged() {
    assert_eq!(resized("width=1024", JPEG, ImageFormat::Jpeg).dimensions(), (451, 300));
}

/// Returns the photograph as a camera held upright would store it: EXIF orientation 6, "turn right to see it".
fn turned(jpeg: &[u8]) -> Vec<u8> {
    let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    [&jpeg[..2], exif, &jpeg[2..]].concat()
}

#[test]
fn the_orientation_of_a_camera_is_applied() {
    let small = resized("width=100", &turned(JPEG), ImageFormat::Jpeg);
    assert_eq!(small.dimensions(), (100, 150));
    let upright = resized("height=100", JPEG, ImageFormat::Jpeg);
    // What was the left edge is the top edge now.
    let (left, top) = (mean(&upright, 0, 0, 20, 100), mean(&small, 0, 0, 100, 20));
    assert!(near(left, top, 3.0), "{left:?} {top:?}");
}

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.into().write_to(&mut std::io::Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
    bytes
}

#[test]
fn invisible_pixels_lend_no_colour_to_their_neighbours() {
    // Red circles on invisible green: every visible pixel must stay red.
    let image = RgbaImage::from_fn(400, 400, |x, y| {
        let inside = (x % 40).abs_diff(20).pow(2) + (y % 40).abs_diff(20).pow(2) < 200;
        if inside { Rgba([255, 0, 0, 255]) } else { Rgba([0, 255, 0, 0]) }
    });
    let png = png(image);
    let small = resized("width=90", &png, ImageFormat::Png).into_rgba8();
    assert!(small.pixels().any(|p| p[3] == 255) && small.pixels().any(|p| p[3] == 0));
    assert!(small.pixels().filter(|p| p[3] > 8).all(|p| p[0] > 200 && p[1] < 8), "green bled in");
    let opaque = resized("width=90&format=jpeg", &png, ImageFormat::Jpeg).into_rgb8();
    let Rgb([r, g, b]) = *opaque.get_pixel(0, 0);
    assert!(r > 235 && g > 235 && b > 235, "what was invisible is white in a JPEG: {r} {g} {b}");
}

#[test]
fn grey_and_16_bit_images_are_resized_too() {
    let grey = png(image::GrayImage::from_fn(300, 200, |x, _| image::Luma([u8::try_from(x % 256).unwrap()])));
    assert_eq!(resized("width=30", &grey, ImageFormat::Png).color(), image::ColorType::L8);
    assert_eq!(resized("width=30&format=jpeg", &grey, ImageFormat::Jpeg).color(), image::ColorType::L8);
    let deep = png(DynamicImage::ImageRgb16(image::load_from_memory(PNG).unwrap().into_rgb16()));
    assert_eq!(resized("width=30", &deep, ImageFormat::Png).color(), image::ColorType::Rgb8);
}

#[test]
fn what_is_no_jpeg_and_no_png_is_415() {
    for body in [&b""[..], b"hello", b"GIF89a\x01\0\x01\0\0\0\0", b"<svg/>", b"RIFF\x10\0\0\0WEBPVP8 "] {
        assert_eq!(status("width=10", body), 415, "{body:?}");
    }
}

/// A PNG whose head promises a size and whose pixels are missing.
fn bomb(width: u32, height: u32, colour_type: u8, depth: u8) -> Vec<u8> {
    let mut head = b"IHDR".to_vec();
    head.extend(width.to_be_bytes());
    head.extend(height.to_be_bytes());
    head.extend([depth, colour_type, 0, 0, 0]);
    let mut crc = u32::MAX;
    for byte in &head {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
        }
    }
    let idat = b"\0\0\0\0IDAT\x35\xaf\x06\x1e";
    [b"\x89PNG\r\n\x1a\n\0\0\0\x0d", &head[..], &(!crc).to_be_bytes(), idat].concat()
}

#[test]
fn a_bomb_is_413_before_a_pixel_is_decoded() {
    let response = post("width=10", &bomb(100_000, 100_000, 2, 8));
    assert_eq!(response.status, 413);
    let text = String::from_utf8(response.body).unwrap();
    assert!(text.contains("100000 x 100000") && text.contains("25000000"), "{text}");
    assert_eq!(status("width=10", &bomb(5000, 5001, 2, 8)), 413);
    assert_eq!(status("width=10", &bomb(4000, 4000, 6, 16)), 413, "16 bits and transparency: 128 MB decoded");
    assert_eq!(status("width=10", &bomb(100, 100, 2, 8)), 422, "the same head within the bounds is decoded");
}

#[test]
fn broken_images_are_422_and_never_a_crash() {
    assert_eq!(status("width=10", &PNG[..PNG.len() / 2]), 422);
    assert_eq!(status("width=10", &JPEG[..200]), 422);
    // Flipped bytes: any answer is right but a panic.
    for step in 1..40 {
        for photo in [JPEG, PNG] {
            let mut damaged = photo.to_vec();
            let at = damaged.len() * step / 40;
            damaged[at] ^= 0x5a;
            damaged[at / 2] ^= 0xff;
            assert!([200, 415, 413, 422].contains(&status("width=10", &damaged)));
        }
    }
}

#[test]
fn the_edges_of_the_api_explain_themselves() {
    let get =
        |method: &str, path: &str| handle(Request { method: method.into(), path: path.into(), ..Request::default() });
    assert_eq!(get("GET", "/"), Response::new(200, "text/plain; charset=utf-8", USAGE));
    assert_eq!(get("PUT", "/").status, 405);
    assert_eq!(get("GET", "/x").status, 404);
    let refused = post("width=5000", JPEG);
    assert_eq!(refused.status, 400);
    let text = String::from_utf8(refused.body).unwrap();
    assert!(text.contains(r#""detail":"width is a whole number from 1 to 1024""#), "{text}");
}
