from gpu_extract.cli import main

raise SystemExit(main())
