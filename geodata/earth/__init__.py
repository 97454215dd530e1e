"""An invented Earth, whose every pixel is a pure function of where it lies, the date and a seed.

How it works, from the bottom up:

- `noise`: integer lattices are hashed to numbers, and numbers are blended to smooth noise. Nothing is drawn, stored or
  remembered (what is cached is only remembered arithmetic), so any two grids agree on the pixels they share, bit for bit.
- `ground`: what covers a place. Fields of climate, relief, coasts, rivers and towns are noise on the sphere, in metres
  of space, so they know neither zones nor seams; the class with the highest score wins. On a grid the scores are taken
  on nodes 20 m apart in the grid's zone and interpolated, which makes neighbouring zones agree but for centimetres at
  the edges of patches, and makes every GSD a sampling of one and the same map.
- `plots`: the ground is divided into districts of 0.05 degrees, each a small flat chart with its own direction and
  sizes of fields, streets and lots. Parcels, crops, roads and buildings follow from integers in that chart, and their
  outlines are known exactly: they are the vector truth.
- `spectra`: reflectance of each cover by band, and its year: greenness by class, crop, hemisphere and region.
- `sky`: sun, clouds and their shadows, by date.
- `towns`: what is at a point in town, for every sensor alike.
- `msi`, `radar`, `camera`: what Sentinel-2, Sentinel-1 and an optical camera make of it.
- `truth`: outlines of buildings and parcels.

Colours, crop calendars and backscatter vary with a smooth field of region, so that knowing where one is helps to know
what one sees; crops are told apart by their year better than by any one date; radar sees through clouds.
"""
