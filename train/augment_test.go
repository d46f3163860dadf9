package train

import (
	"testing"

	"vlmo-train/data/img"
	"vlmo-train/train/config"
)

// RandAugment reaches the augmentation of a stage's pictures.
func TestRandAugmentOfStage(t *testing.T) {
	for kind, want := range map[config.RandKind]img.RandKind{
		config.RandDefault: img.RandDefault, config.RandCompat: img.RandCompat, config.RandPillow: img.RandPillow,
	} {
		c, err := config.Preset("base-vl")
		if err != nil {
			t.Fatal(err)
		}
		c.Stages[0].Augment.RandAugment = config.RandAugment{Ops: 3, Level: 5, Kind: kind}
		if got := newMaker(&Run{Config: c}, 0).aug.Rand; got != (img.RandAugment{Ops: 3, Level: 5, Kind: want}) {
			t.Errorf("%s: %+v", kind, got)
		}
	}
}
