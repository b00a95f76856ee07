package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/image/draw"
)

// pictures is the folder of the resized pictures.
type pictures struct{ dir string }

func (p pictures) path(id string) string { return filepath.Join(p.dir, id) }

const (
	imageBytes   = 32 << 20 // of an uploaded file
	defaultWidth = 640
	mostWidth    = 4096

	// imageMemory is the memory for all pictures that are being resized, in bytes: the
	// pool's Capacity. A picture that needs more by itself is refused.
	imageMemory = 512 << 20
)

// postImage accepts a JPEG or PNG and resizes it in the background, to ?width= pixels.
func (s *shop) postImage(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength > imageBytes {
		return &http.MaxBytesError{Limit: imageBytes}
	}
	u := &upload{Kind: anImage, Width: defaultWidth}
	if text := r.URL.Query().Get("width"); text != "" {
		width, err := strconv.Atoi(text)
		if err != nil || width < 1 || width > mostWidth {
			return problemf(http.StatusBadRequest, "width: not a whole number from 1 to %d", mostWidth)
		}
		u.Width = width
	}
	body := s.uploadBody(w, r)
	head, err := body.src.Peek(imageHead)
	if err != nil && !errors.Is(err, io.EOF) {
		return body.readError(err)
	}
	if err := u.inspect(head); err != nil {
		return err
	}
	return s.acceptUpload(w, r, s.images, u, body, imageBytes)
}

// imageHead is the part of a file that is read for its dimensions, in bytes. A preview and
// a color profile may come before them; 256 KB is enough for what cameras write.
const imageHead = 256 << 10

// inspect reads a picture's dimensions from its first bytes, before anything is decoded:
// a file of a few KB can decode to gigabytes.
func (u *upload) inspect(head []byte) error {
	config, format, err := image.DecodeConfig(bytes.NewReader(head))
	if err != nil {
		return problemf(http.StatusUnsupportedMediaType, "neither a JPEG nor a PNG picture")
	}
	u.Format = format
	u.Weight = decodedBytes(config, format)
	if u.Weight > imageMemory {
		return problemf(http.StatusUnprocessableEntity,
			"%d x %d pixels would take more than the %d MB of memory there are for it", config.Width, config.Height, imageMemory>>20)
	}
	return nil
}

// decodedBytes returns the most memory that decoding and resizing a picture takes.
//
// The decoder of a progressive JPEG holds 4 bytes of coefficients for each of the at most
// 4 samples of a pixel. That of an interlaced PNG holds one pass beside the picture. The
// first step of the resizing adds a quarter. Turning a picture that is not resized takes 4
// bytes a pixel, when the decoder's memory is free again.
func decodedBytes(config image.Config, format string) int64 {
	perPixel := int64(20)
	if format == "png" {
		perPixel = 2 * 4
		switch config.ColorModel {
		case color.RGBA64Model, color.NRGBA64Model, color.Gray16Model:
			perPixel = 2 * 8
		}
	}
	width, height := int64(config.Width), int64(config.Height)
	if width > math.MaxInt32 || height > math.MaxInt32/max(1, width) {
		return math.MaxInt64
	}
	return width*height*(perPixel+1) + 1<<16
}

// resizeImage makes the picture of an upload.
func (s *shop) resizeImage(u *upload) error {
	f, err := os.Open(s.spool.path(u.ID))
	if err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	turn := readOrientation(f, u.Format)
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	src, format, err := image.Decode(f)
	if err != nil {
		return problemf(http.StatusUnprocessableEntity, "the picture is broken: %s", err)
	}
	// Shrunk first, so that as little as possible is turned.
	small := turn.apply(shrink(src, fitting(src.Bounds().Size(), u.Width, turn.sideways())))
	var out bytes.Buffer
	if format == "png" {
		err = png.Encode(&out, small) // keeps transparency
	} else {
		err = jpeg.Encode(&out, small, &jpeg.Options{Quality: 85})
	}
	if err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	if err := writeWhole(s.pictures.path(u.ID), out.Bytes()); err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	return nil
}

// fitting returns the size of a stored picture that is at most width wide when it is
// shown, sideways or not. A smaller one keeps its size.
func fitting(stored image.Point, width int, sideways bool) image.Point {
	scaled := func(side, by int) int {
		return max(1, int(math.Round(float64(side)*float64(width)/float64(by))))
	}
	switch {
	case sideways && stored.Y > width:
		return image.Pt(scaled(stored.X, stored.Y), width)
	case !sideways && stored.X > width:
		return image.Pt(width, scaled(stored.Y, stored.X))
	}
	return stored
}

// shrink scales a picture down to the size target, which must not be larger.
//
// It halves the picture while it is more than twice as large, and interpolates the rest,
// so that each source pixel counts and the memory is bounded. CatmullRom in one step would
// take 32 bytes for each row of the source and column of the result.
func shrink(src image.Image, target image.Point) image.Image {
	for {
		size := src.Bounds().Size()
		if size == target {
			return src
		}
		next := target
		if size.X > 2*target.X || size.Y > 2*target.Y {
			next = image.Pt(max(target.X, (size.X+1)/2), max(target.Y, (size.Y+1)/2))
		}
		dst := image.NewRGBA(image.Rectangle{Max: next})
		draw.ApproxBiLinear.Scale(dst, dst.Bounds(), src, src.Bounds(), draw.Src, nil)
		src = dst
	}
}

// getImage shows the progress of a picture, and its URL when it is done.
func (s *shop) getImage(w http.ResponseWriter, r *http.Request) error {
	u, err := s.store.upload(r.Context(), anImage, r.PathValue("id"))
	if err != nil {
		return err
	}
	view := struct {
		uploadView
		Picture string `json:"picture,omitempty"`
	}{uploadView: s.view(u)}
	if u.State == uploadDone {
		view.Picture = uploadURL(u) + "/picture"
	}
	w.Header().Set("Cache-Control", "no-store") // the state changes
	writeJSON(w, http.StatusOK, view)
	return nil
}

// getPicture sends the resized picture.
func (s *shop) getPicture(w http.ResponseWriter, r *http.Request) error {
	u, err := s.store.upload(r.Context(), anImage, r.PathValue("id"))
	if err != nil {
		return err
	}
	if u.State != uploadDone {
		return problemf(http.StatusNotFound, "this picture is %s", s.view(u).State)
	}
	f, err := os.Open(s.pictures.path(u.ID))
	if err != nil {
		return fmt.Errorf("picture: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	w.Header().Set("Content-Type", "image/"+u.Format)
	http.ServeContent(w, r, "", u.Created, f)
	return nil
}

// getSample draws a picture for trying POST /images.
func (s *shop) getSample(w http.ResponseWriter, _ *http.Request) error {
	var out bytes.Buffer
	if err := png.Encode(&out, samplePicture(1600, 900)); err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	w.Header().Set("Content-Type", "image/png")
	w.Header().Set("Content-Length", strconv.Itoa(out.Len()))
	_, _ = out.WriteTo(w) // an error means that the client has gone
	return nil
}

// samplePicture is a sunrise.
func samplePicture(width, height int) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			glow := math.Exp(-4 * math.Hypot(float64(x)/float64(width)-0.5, float64(y)/float64(height)-0.7))
			binary.BigEndian.PutUint32(img.Pix[img.PixOffset(x, y):], 0xff|
				uint32(40+215*glow)<<24|uint32(50+120*glow)<<16|uint32(110-60*glow)<<8)
		}
	}
	return img
}
