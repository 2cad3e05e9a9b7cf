package smartbatch.frontend.models;

import io.netty.channel.ChannelHandlerContext;
import io.netty.channel.ChannelOutboundHandlerAdapter;
import io.netty.channel.ChannelPromise;
import io.netty.handler.codec.http.HttpResponse;
import io.netty.util.AttributeKey;

/** Takes out of each answer how many requests its worker wants in a batch, for the queue that the request waited in. */
public final class BatchBounds extends ChannelOutboundHandlerAdapter {
    static final AttributeKey<JobQueue> QUEUE = AttributeKey.valueOf("smartbatch.queue");

    private static final String LIMIT = "X-SmartBatch-Batch-Limit";

    @Override
    public void write(ChannelHandlerContext ctx, Object message, ChannelPromise promise) {
        JobQueue queue = ctx.channel().attr(QUEUE).get();
        if (queue != null && message instanceof HttpResponse answer) {
            String limit = answer.headers().get(LIMIT);
            if (limit != null && limit.matches("[1-9][0-9]{0,8}")) {
                queue.handOverAtMost(Integer.parseInt(limit));
                answer.headers().remove(LIMIT);
            }
        }
        ctx.write(message, promise);
    }
}
