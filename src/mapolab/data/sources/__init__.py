"""Where preferences come from: parquet files on a disk, a hub or an object store, and folders of images."""
