package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/image/draw"
)

// A picture of four fields. Its corners say which way up it is.
const fieldWidth, fieldHeight = 40, 24

var fields = map[[2]string]color.RGBA{
	{"top", "left"}: {R: 255, A: 255}, {"top", "right"}: {G: 255, A: 255},
	{"bottom", "left"}: {B: 255, A: 255}, {"bottom", "right"}: {R: 255, G: 255, A: 255},
}

// opposite sides.
var opposite = map[string]string{"top": "bottom", "bottom": "top", "left": "right", "right": "left"}

// storedAs draws the four fields as a camera stores them. row and column are the sides
// of the picture that the first stored row and column are, as the standard names them.
func storedAs(row, column string) image.Image {
	size := image.Pt(2*fieldWidth, 2*fieldHeight)
	if row == "left" || row == "right" {
		size.X, size.Y = size.Y, size.X
	}
	img := image.NewRGBA(image.Rectangle{Max: size})
	for y, vertical := range []string{row, opposite[row]} {
		for x, horizontal := range []string{column, opposite[column]} {
			field, ok := fields[[2]string{vertical, horizontal}]
			if !ok { // sideways
				field = fields[[2]string{horizontal, vertical}]
			}
			area := image.Rect(0, 0, size.X/2, size.Y/2).Add(image.Pt(x*size.X/2, y*size.Y/2))
			draw.Draw(img, area, image.NewUniform(field), image.Point{}, draw.Src)
		}
	}
	return img
}

// exif is the metadata of a picture whose only tag is the orientation, and a second
// directory, which is that of a preview, with another.
func exif(order binary.AppendByteOrder, o uint16) []byte {
	b := []byte("MM")
	if order == binary.LittleEndian {
		b = []byte("II")
	}
	directory := func(o uint16, next uint32) {
		b = order.AppendUint16(b, 1)      // entry
		b = order.AppendUint16(b, 0x0112) // Orientation
		b = order.AppendUint16(b, 3)      // SHORT
		b = order.AppendUint32(b, 1)
		b = order.AppendUint16(b, o)
		b = order.AppendUint16(b, 0)
		b = order.AppendUint32(b, next)
	}
	b = order.AppendUint16(b, 42)
	b = order.AppendUint32(b, 8)
	directory(o, 26)
	directory(1, 0)
	return b
}

// withExif puts metadata into a file of the format.
func withExif(t *testing.T, file []byte, format string, meta []byte) []byte {
	t.Helper()
	var head, segment []byte
	switch format {
	case "jpeg":
		head = file[:2] // SOI
		meta = append([]byte("Exif\x00\x00"), meta...)
		segment = binary.BigEndian.AppendUint16([]byte{0xff, 0xe1}, uint16(2+len(meta)))
		segment = append(segment, meta...)
	case "png":
		head = file[:8+25] // the signature and IHDR
		segment = binary.BigEndian.AppendUint32(nil, uint32(len(meta)))
		chunk := append([]byte("eXIf"), meta...)
		segment = append(segment, chunk...)
		segment = binary.BigEndian.AppendUint32(segment, crc32.ChecksumIEEE(chunk))
	}
	return bytes.Join([][]byte{head, segment, file[len(head):]}, nil)
}

// requireUpright looks at the middle of each field.
func requireUpright(t *testing.T, img image.Image) {
	t.Helper()
	size := img.Bounds().Size()
	for sides, want := range fields {
		at := image.Pt(size.X/4, size.Y/4)
		if sides[0] == "bottom" {
			at.Y += size.Y / 2
		}
		if sides[1] == "right" {
			at.X += size.X / 2
		}
		r, g, b, _ := img.At(at.X, at.Y).RGBA()
		for i, got := range []uint32{r, g, b} {
			require.InDelta(t, []uint8{want.R, want.G, want.B}[i], got>>8, 40, "%v of %v at %v", sides, size, at)
		}
	}
}

func TestPhotosComeOutUpright(t *testing.T) {
	ts := openShop(t)
	for i, first := range [][2]string{
		{"top", "left"}, {"top", "right"}, {"bottom", "right"}, {"bottom", "left"},
		{"left", "top"}, {"right", "top"}, {"right", "bottom"}, {"left", "bottom"},
	} {
		o := uint16(i + 1)
		for _, format := range []string{"jpeg", "png"} {
			for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
				for width, want := range map[int]image.Point{
					50:  image.Pt(50, 30),                      // is shrunk
					500: image.Pt(2*fieldWidth, 2*fieldHeight), // is not
				} {
					t.Run(fmt.Sprint(o, format, order, width), func(t *testing.T) {
						var file bytes.Buffer
						encode(t, &file, format, storedAs(first[0], first[1]))
						photo := withExif(t, file.Bytes(), format, exif(order, o))
						s := ts.until(ts.post(fmt.Sprint("/images?width=", width), string(photo)), done)
						require.Equal(t, "done", s.State, s.Reason)
						picture := ts.do("GET", s.Picture, "").body
						img, _, err := image.Decode(bytes.NewReader(picture))
						require.NoError(t, err)
						require.Equal(t, want, img.Bounds().Size())
						requireUpright(t, img)
						require.Equal(t, upright, readOrientation(bytes.NewReader(picture), format), "it is not turned once more")
					})
				}
			}
		}
	}
	t.Run("a camera's", func(t *testing.T) {
		photo, err := os.ReadFile("testdata/photo-turned.jpg")
		require.NoError(t, err)
		s := ts.until(ts.post("/images?width=150", string(photo)), done)
		require.Equal(t, "done", s.State, s.Reason)
		img, _, err := image.Decode(bytes.NewReader(ts.do("GET", s.Picture, "").body))
		require.NoError(t, err)
		require.Equal(t, image.Pt(150, 200), img.Bounds().Size())
		r, _, b, _ := img.At(75, 20).RGBA()
		require.Greater(t, r, b, "red above")
		r, _, b, _ = img.At(75, 180).RGBA()
		require.Greater(t, b, r, "blue below")
	})
}

// The decoders make pictures that begin at 0, 0; a part of one does not.
func TestOrientationOfAPart(t *testing.T) {
	whole := image.NewRGBA(image.Rect(0, 0, 200, 200))
	stored := storedAs("right", "top")
	area := stored.Bounds().Add(image.Pt(70, 30))
	draw.Draw(whole, area, stored, image.Point{}, draw.Src)
	requireUpright(t, orientation(6).apply(whole.SubImage(area)))
}

// What is not an orientation counts as none, and does not refuse the picture.
func TestBadOrientation(t *testing.T) {
	var file bytes.Buffer
	encode(t, &file, "jpeg", storedAs("top", "left"))
	good := exif(binary.BigEndian, 6)
	bad := map[string][]byte{
		"0": exif(binary.BigEndian, 0), "9": exif(binary.BigEndian, 9), "nothing": {}, "no directory": good[:8],
		"cut off": good[:14], "another type": append(append(bytes.Clone(good[:12]), 0, 2), good[14:]...),
		"directory outside": append([]byte("MM\x00*\xff\xff\xff\xff"), good[8:]...),
	}
	ts := openShop(t)
	for name, meta := range bad {
		t.Run(name, func(t *testing.T) {
			photo := withExif(t, file.Bytes(), "jpeg", meta)
			require.Equal(t, upright, readOrientation(bytes.NewReader(photo), "jpeg"))
			s := ts.until(ts.post("/images?width=50", string(photo)), done)
			require.Equal(t, "done", s.State, s.Reason)
		})
	}
}

func FuzzOrientation(f *testing.F) {
	photo, err := os.ReadFile("testdata/photo-turned.jpg")
	require.NoError(f, err)
	f.Add(photo, false)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, file []byte, isPNG bool) {
		format := "jpeg"
		if isPNG {
			format = "png"
		}
		o := readOrientation(bytes.NewReader(file), format)
		require.True(t, o >= 1 && o <= 8, o)
	})
}
