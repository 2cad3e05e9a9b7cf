package smartbatch.frontend.http;

import java.util.UUID;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Stands in for {@link UUID#randomUUID()} in TorchServe's Session. A request's id has to be unique, not secret, and the
 * JDK's random numbers for secrets cost a lock and a hash.
 */
public final class RequestIds {
    private static final long VERSION = 0x4000L;
    private static final long VERSION_MASK = 0xf000L;
    private static final long VARIANT = 0x8000000000000000L;
    private static final long VARIANT_MASK = 0xc000000000000000L;

    private RequestIds() {}

    /** A version 4 UUID. */
    public static UUID randomUUID() {
        ThreadLocalRandom random = ThreadLocalRandom.current();
        return new UUID(
                random.nextLong() & ~VERSION_MASK | VERSION, random.nextLong() & ~VARIANT_MASK | VARIANT);
    }
}
