//! Nothing: the fuzz targets are the tests of this package.
