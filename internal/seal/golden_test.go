package seal

// Computed by another implementation from a secret of 32 bytes 07.
const (
	goldenChunkID     = "681e48b5233f5d181ecddc56e9c8bbaa"
	goldenChunker     = "016e7e78c843a0551c64905b0eec0229f602b791ccf4187fd550a45fa1f87c29"
	goldenData        = "e950d74c058020a044e11e7a03992c63649dbedba702961b6b54d5bc696d55eb"
	goldenIndex       = "d715375439efe2ff3d70ec4a84b8bfc0567da754a1a1a87d92966401cf41a03e"
	goldenMeta        = "ebd4ae037cd9b11a0600e61c57bb75d31cf97ca08af793f63db738bc0090bf13"
	goldenConfig      = "797475b3fc95c163d50ab31cda5922498eb781960fe245347eb446b41cb63ef3"
	goldenReport      = "40036508f715963e41a01a0038d1da0d079ca6a6e41db4a9cdfc11367c250d1d"
	goldenFingerprint = "6c0342aae2f70d936ccf923d05082b15"
)

// Computed by another implementation, from a key of bytes 0, 37, 74, ... (mod 256).
const (
	goldenPaper1 = "00JM MVWM Q7F0 75Y8"
	goldenPaper2 = "516Q 55XW W432 QB6B"
	goldenPaper3 = "A1TS NFZ4 14Q5 66HG"
	goldenPaper4 = "F2EW 5SRC 65B7 PHC2"
)
